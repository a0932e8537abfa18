"""Results printed for people: plans, status, rows, filters, diagnoses."""
