"""What a notebook imports.

Here belongs reading for people: the tables as DataFrames, and the model-fitting query with the
arguments and columns people know. Building and publishing belong to :mod:`aind_etl.warehouse`.
"""

from aind_etl.client.model_fitting import get_mle_model_fitting
from aind_etl.client.warehouse import Warehouse

__all__ = ["Warehouse", "get_mle_model_fitting"]
