"""`watch`: libraries that are kept indexed for months, each on its own."""
