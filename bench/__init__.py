"""What the guard costs, measured beside the bare Glance: see README.rst here."""
