// A server whose error path loses what it had begun: an exception passes the place that would free it.
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <unistd.h>

struct Request {
	virtual ~Request() {}
	char body[700];
};

__attribute__((noinline)) static void parse(Request *request, int number)
{
	if (number % 2)
		throw std::runtime_error("bad request");
	request->body[0] = 1;
}

__attribute__((noinline)) static void serve(int number)
{
	Request *request = new Request; // lost when parse() throws
	parse(request, number);
	delete request;
}

int main()
{
	puts("READY");
	fflush(stdout);
	for (int number = 0;; number++) {
		try {
			serve(number);
		} catch (const std::exception &) {
		}
		usleep(5000);
	}
}
