"""report.json is the truth; everything else here is a view of it."""
