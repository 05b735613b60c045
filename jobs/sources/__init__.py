"""Where recorded events come from: data sets fetched at run time, and a generator that needs no network."""
