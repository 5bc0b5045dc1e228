"""Statistics, verdicts, figures and report: imported on the controller alone, may use third-party libraries."""
