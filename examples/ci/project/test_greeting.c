#include "names.h"

int main(void)
{
	for (int i = 0; i < 100; i++)
		if (greet("Ada", "Lovelace") != 20)
			return 1;
	return 0;
}
