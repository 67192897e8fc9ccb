char *joined(const char *first, const char *last);
int greet(const char *first, const char *last);
