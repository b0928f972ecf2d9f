"""Our nets at home in other libraries: each file meets one, and only when it is asked to."""
