"""Generation: processing of the next token's scores, and the search for good sequences."""
