"""The tools that aind-etl is compared with: one command each, run as a process of its own.

Runs in the environment of ``requirements.txt``, and prints what ``ours.py`` prints. Each is
written as somebody would who knows the tool well and has an afternoon.
"""

import json
import os
import resource
from pathlib import Path

from timing import COLLECTION, main, timed

# The page size of the public gateway's clients.
PAGE = 500
DLT_BYTES = 20 << 30
FIT = {
    "agent_alias": ("fit_settings.agent_alias", "string"),
    "n_trials": ("n_trials", "int"),
    "k_model": ("k_model", "int"),
    "log_likelihood": ("log_likelihood", "double"),
    "aic": ("AIC", "double"),
    "bic": ("BIC", "double"),
    "lpt": ("LPT", "double"),
    "lpt_aic": ("LPT_AIC", "double"),
    "lpt_bic": ("LPT_BIC", "double"),
    "prediction_accuracy": ("prediction_accuracy", "double"),
}


def collection_at(source):
    """Return the collection of a database."""
    from pymongo import MongoClient

    return MongoClient(source).get_default_database()[COLLECTION]


def dlt(source, target, taken):
    """Load documents into DuckDB with dlt, children in tables of their own."""
    os.environ["RUNTIME__LOG_LEVEL"] = "ERROR"
    import dlt

    # It takes most of a machine's memory. Let it fail before the machine does.
    resource.setrlimit(resource.RLIMIT_DATA, (DLT_BYTES, DLT_BYTES))
    collection = collection_at(source)
    pipeline = dlt.pipeline(
        "bench",
        destination=dlt.destinations.duckdb(f"{target}.duckdb"),
        dataset_name="documents",
        pipelines_dir=f"{target}-pipelines",
    )
    with timed(taken):
        pipeline.run(collection.find(), table_name="analyses", write_disposition="replace")
    with pipeline.sql_client() as client:
        count = client.execute_sql("SELECT count(*) FROM analyses")[0][0]
    return count, {"documents": count}


def project(source, target, taken):
    """Let the server flatten the main columns of both formats, and write them with pyarrow."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    from pymongoarrow.api import Schema, aggregate_arrow_all

    def converted(kind, *paths):
        value = {"$ifNull": [*paths, None]}
        return {"$convert": {"input": value, "to": kind, "onError": None, "onNull": None}}

    # One row per process; documents of the other format have none.
    processes = {"$ifNull": ["$processing.data_processes", [None]]}
    outputs = "$p.output_parameters"
    # Early code wrote a list.
    outputs = {"$cond": [{"$isArray": outputs}, {"$first": outputs}, outputs]}
    columns = {
        "nwb_name": converted("string", "$nwb_name", "$o.nwb_name"),
        "subject_id": converted("string", "$subject_id", "$o.subject_id"),
        "session_date": converted("string", "$session_date", "$o.session_date"),
        "status": converted("string", "$status", "$o.additional_info"),
        "result_location": converted("string", "$s3_location", "$location"),
        **{
            name: converted(kind, f"$analysis_results.{path}", f"$o.fitting_results.{path}")
            for name, (path, kind) in FIT.items()
        },
    }
    types = {"string": pa.string(), "int": pa.int32(), "double": pa.float64()}
    schema = Schema(
        {"_id": pa.string()}
        | {name: types[FIT[name][1]] if name in FIT else pa.string() for name in columns}
    )
    with timed(taken):
        table = aggregate_arrow_all(
            collection_at(source),
            [
                {"$set": {"p": processes}},
                {"$unwind": {"path": "$p", "preserveNullAndEmptyArrays": True}},
                {"$set": {"o": outputs}},
                {"$project": columns},
            ],
            schema=schema,
        )
        pq.write_table(table, f"{target}.parquet", compression="zstd")
    fitted = table.filter(pc.is_valid(table["aic"]))
    return len(pc.unique(table["_id"])), {
        "rows": table.num_rows,
        "fitted": fitted.num_rows,
        "aic": round(pc.sum(fitted["aic"]).as_py(), 3),
        "trials": pc.sum(fitted["n_trials"]).as_py(),
    }


def raw(source, target, taken):
    """Read all documents as raw BSON, and do nothing."""
    collection = collection_at(source)
    with timed(taken):
        for _ in collection.find_raw_batches():
            pass
    count = collection.count_documents({})
    return count, {"documents": count}


def ids(source, target, taken):
    """List the ids."""
    collection = collection_at(source)
    with timed(taken):
        count = sum(1 for _ in collection.find({}, {"_id": 1}))
    return count, {"documents": count}


def normalize(source, target, taken):
    """Flatten documents with pandas; parsing is part of the time, as on the other side."""
    import orjson
    import pandas as pd
    import pyarrow.parquet as pq

    texts = pq.read_table(source, columns=["document"])["document"].to_pylist()
    with timed(taken):
        table = pd.json_normalize([orjson.loads(text) for text in texts])
    aic = table["analysis_results.AIC"].sum()
    return len(table), {"documents": len(table), "aic": round(float(aic), 3)}


def paging(source, target, taken):
    """Ask a gateway for the fits of subjects, page by page, and make a frame of them."""
    import pandas as pd
    import requests

    subjects = target.split(",")
    session = requests.Session()

    def pages(subject):
        path = "processing.data_processes.output_parameters.subject_id"
        condition = json.dumps({"$or": [{"subject_id": subject}, {path: subject}]})
        count = 0
        while True:
            asked = {"filter": condition, "limit": PAGE, "skip": count, "sort": '{"_id": 1}'}
            reply = session.get(f"{source}/{COLLECTION}/find", params=asked, timeout=600)
            reply.raise_for_status()
            documents = json.loads(reply.content)
            yield from documents
            count += len(documents)
            if len(documents) < PAGE:
                return

    def ask(subject):
        prototype, framework = [], []
        for document in pages(subject):
            (framework if "processing" in document else prototype).append(document)
        return pd.concat(
            [
                _fits(pd.json_normalize(prototype), "status", "analysis_results."),
                _fits(
                    pd.json_normalize(framework, ["processing", "data_processes"], "_id"),
                    "output_parameters.additional_info",
                    "output_parameters.fitting_results.",
                ),
            ]
        )

    ask(subjects[0])
    with timed(taken):
        found = [ask(subject) for subject in subjects]
    aic = sum(float(one["AIC"].sum()) for one in found if len(one))
    return len(subjects), {"fits": sum(map(len, found)), "aic": round(aic, 3)}


def _fits(rows, status, prefix):
    """Return the successful fits, with the names that both formats have."""
    successful = rows[rows[status] == "success"] if status in rows else rows[:0]
    return successful.rename(columns=lambda name: str(name).removeprefix(prefix))


def threads(source, target, taken):
    """Read the trials of every result file with ten threads, and count them."""
    from concurrent.futures import ThreadPoolExecutor

    from s3fs import S3FileSystem

    with Path(target).open(encoding="utf-8") as lines:
        locations = [json.loads(line)["s3_location"] for line in lines]
    store = S3FileSystem(
        anon=True, endpoint_url=source, config_kwargs={"s3": {"addressing_style": "path"}}
    )

    def read(location):
        path = f"{location}/docDB_mle_fitting.json"
        if not store.exists(path):
            return None
        fit = json.loads(store.cat_file(path))["analysis_results"]
        return len(fit["fitted_latent_variables"]["choice_prob"][0])

    with timed(taken), ThreadPoolExecutor(10) as pool:
        found = [trials for trials in pool.map(read, locations) if trials is not None]
    return len(found), {"records": len(found), "trials": sum(found)}


def copy(source, target, taken):
    """Copy the tables of a lake into a DuckDB file."""
    import duckdb

    names = ["analyses", "fit_parameters", "cross_validation", "input_assets", "attributes"]
    names.append("documents")
    file = Path(f"{target}.duckdb")
    file.unlink(missing_ok=True)
    rows = {}
    with timed(taken), duckdb.connect(str(file)) as connection:
        for name in names:
            rows[name] = 0
            if not any(Path(source, name).rglob("*.parquet")):
                continue
            files = f"{source}/{name}/**/*.parquet"
            connection.execute(
                f"CREATE TABLE {name} AS FROM read_parquet('{files}', hive_partitioning = false)"
            )
            rows[name] = connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
    return rows["documents"], rows


if __name__ == "__main__":
    main(dlt, project, raw, ids, normalize, copy, paging, threads)
