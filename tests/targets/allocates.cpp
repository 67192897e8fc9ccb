/* operator new in its forms, and allocations while an exception is under way. */
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>

#define ALONE __attribute__((noinline, noclone))

extern "C" {
void *blocks[32];

struct alignas(64) Wide { char bytes[128]; };

ALONE void by_new(void) { blocks[0] = new int[1]; }
ALONE void by_array(void) { blocks[1] = new char[222]; }
ALONE void by_aligned_new(void) { blocks[2] = new Wide; }
ALONE void by_nothrow(void) { blocks[3] = new (std::nothrow) char[224]; }
ALONE void by_string(void) { blocks[4] = (void *)(new std::string(500, 'x'))->data(); }
ALONE void by_throw(int deep) { if (deep) by_throw(deep - 1); else throw std::runtime_error(std::string(300, 'y')); asm(""); }
ALONE void by_catch(void) { try { by_throw(5); } catch (const std::exception &e) { blocks[5] = new char[226]; } }
}

int main()
{
	by_new(); by_array(); by_aligned_new(); by_nothrow(); by_string(); by_catch();
}
