"""Everything that takes time: choosing targets, sampling, scanning, tracing, and the ladder that joins them."""
