// A Go program that leaks through C: C.CString is malloc'ed, and must be freed.
package main

/*
#include <stdlib.h>
#include <string.h>
static size_t length(const char *text) { return strlen(text); }
*/
import "C"

import (
	"fmt"
	"strings"
	"time"
)

//go:noinline
func measure(text string) int {
	return int(C.length(C.CString(text))) // lost
}

func main() {
	text := strings.Repeat("x", 500)
	fmt.Println("READY")
	for {
		measure(text)
		time.Sleep(5 * time.Millisecond)
	}
}
