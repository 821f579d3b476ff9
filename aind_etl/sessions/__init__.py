"""The table `sessions`: what the institute knows about each session beyond its analyses."""

from aind_etl.sessions.session_table import SessionsReport, refresh_sessions

__all__ = ["SessionsReport", "refresh_sessions"]
