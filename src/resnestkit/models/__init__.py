"""The family: specs, the table of nets, and the one class that reads them."""
