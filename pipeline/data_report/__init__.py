"""What a log and its features hold: missing and rare values, unseen ones, drift between days."""

from pipeline.data_report.report import data_report
from pipeline.data_report.settings import DataReportSettings

__all__ = ["DataReportSettings", "data_report"]
