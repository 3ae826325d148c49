"""The report and the plots of the commands."""
