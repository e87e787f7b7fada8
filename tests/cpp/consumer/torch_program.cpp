// The operators are registered by linking alone, though nothing of the library is called by name.
#include <dlfcn.h>

int main() { return dlopen(LIBRARY, RTLD_LAZY | RTLD_NOLOAD) != nullptr ? 0 : 1; }
