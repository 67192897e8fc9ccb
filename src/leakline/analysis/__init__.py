"""From records to records: pure, no I/O, no clock."""
