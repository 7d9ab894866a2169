"""From scores of the next token to texts: rules, and the search for a good sequence."""
