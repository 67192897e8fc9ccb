"""From records to what people read. Numbers become text in one place, `text`."""
