#include "names.h"

#include <stdlib.h>
#include <string.h>

int main(void)
{
	char *name = joined("Ada", "Lovelace");
	int wrong = strcmp(name, "Ada Lovelace");
	free(name);
	return wrong != 0;
}
