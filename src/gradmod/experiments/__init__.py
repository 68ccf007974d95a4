"""The application: data sets, training runs, comparisons and reports, from settings. Needs the extra packages."""
