"""The optimizers, one file each. A file defines the rule, the class that people construct, and ENTRY."""
