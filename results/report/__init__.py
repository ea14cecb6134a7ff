"""Build results/index.html: every artefact and claim on one page."""

from results.report.cards import LEVELS
from results.report.page import write_report
from results.report.sections import Section, model_sizes_section, planned_section, section, step_times_section

__all__ = [
    "LEVELS",
    "Section",
    "model_sizes_section",
    "planned_section",
    "section",
    "step_times_section",
    "write_report",
]
