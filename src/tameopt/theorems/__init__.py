"""The theorems of the lecture as data, and the judge that matches their hypotheses with findings."""
