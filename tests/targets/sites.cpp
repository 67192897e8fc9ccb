// Known to the byte: 3 x 40 by a member, 2 x 24 by a template, 1 x 6 by strdup, where the argument says: main, thread, fork.
#include <cstdlib>
#include <cstring>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace shop {
struct Basket {
	__attribute__((noinline)) void fill(int items)
	{
		for (int i = 0; i < items; i++)
			memset(new char[40], 1, 40);
	}
};
template <typename T> __attribute__((noinline)) void stock(T count)
{
	for (T i = 0; i < count; i++)
		memset(operator new(24), 1, 24);
}
} // namespace shop

__attribute__((noinline)) static void label(const char *text)
{
	char *volatile copy = strdup(text);
	copy = nullptr;
}

__attribute__((noinline)) static void lose()
{
	shop::Basket().fill(3);
	shop::stock<long>(2);
	label("label");
}

__attribute__((noinline)) static void wipe()
{
	volatile char stack[16384];
	memset((char *)stack, 0, sizeof stack);
}

int main(int count, char **arguments)
{
	std::string how = count > 1 ? arguments[1] : "main";
	if (how == "thread") {
		std::thread([] {
			lose();
			wipe();
		}).join();
	} else if (how == "fork") {
		if (!fork()) {
			lose();
			wipe();
			return 5;
		}
		int status;
		wait(&status);
	} else {
		lose();
		wipe();
	}
	return 0;
}
