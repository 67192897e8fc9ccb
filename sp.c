#include <stdio.h>
#include <stdlib.h>
int main(){ system("echo \"it's $0\"; env | grep -c LEAK; nosuch"); FILE*f=popen("cat /proc/self/maps | grep -c agent","r"); char b[100]; while(fgets(b,100,f)) printf("p:%s",b); pclose(f); printf("%d\n", system("exit 7")>>8); return 0;}
