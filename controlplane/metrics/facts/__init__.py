"""What the database knows, by a handful of GROUP BY queries. Each module gives the families of one subject."""
