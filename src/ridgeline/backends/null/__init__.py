"""No arithmetic: checks every plan, and gives tokens that say whether the cache was kept right."""
