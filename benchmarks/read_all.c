/* The floor: open and read /proc/PID/FILE of every process, and do nothing with it. usage: read_all FILE... */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static char buffer[1 << 16];

int main(int count, char **arguments)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	char path[512];
	if (count < 2 || !proc)
		return 2;
	while ((entry = readdir(proc))) {
		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		for (int i = 1; i < count; i++) {
			snprintf(path, sizeof path, "/proc/%s/%s", entry->d_name, arguments[i]);
			int file = open(path, O_RDONLY | O_CLOEXEC);
			if (file < 0)
				continue;
			while (read(file, buffer, sizeof buffer) > 0)
				;
			close(file);
		}
	}
	return 0;
}
