"""The regularizers, one a module under the name that `regularizer.optimizer` gives: its keys, and how it is built."""
