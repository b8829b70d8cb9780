// A check that ends the program, which the fuzzer takes for a find.
#pragma once

#include <cstdio>
#include <cstdlib>

inline void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "not so: %s\n", what);
    std::abort();
}
#define REQUIRE(condition) require(condition, #condition)
