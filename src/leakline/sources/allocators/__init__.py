"""Which allocator a process uses, and where its blocks are. One module per allocator that leakline can read."""
