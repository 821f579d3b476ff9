"""The session table: the institute's sessions, which do not follow from the analyses."""

from aind_etl.sessions.session_table import SessionsReport, refresh_sessions

__all__ = ["SessionsReport", "refresh_sessions"]
