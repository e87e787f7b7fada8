// Instruction sets are chosen by name, and tasks run once each, in order, on the calling thread.
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "common.h"

int main() {
    const std::string best = pe::instruction_set();
    CHECK(best == "baseline" || best == "avx2" || best == "avx512");

    CHECK(pe::set_instruction_set("baseline"));
    CHECK(std::strcmp(pe::instruction_set(), "baseline") == 0);
    CHECK(!pe::set_instruction_set("sse9"));
    CHECK(std::strcmp(pe::instruction_set(), "baseline") == 0);
    CHECK(pe::set_instruction_set(best.c_str()));
    CHECK(best == pe::instruction_set());

    const pe::Pool pool = pe::sequential_pool();
    CHECK(pool.threads == 1);
    std::vector<int> seen;
    const auto note = [](void* argument, int task) {
        static_cast<std::vector<int>*>(argument)->push_back(task);
    };
    pool.run(pool.context, 0, note, &seen);
    CHECK(seen.empty());
    pool.run(pool.context, 3, note, &seen);
    CHECK((seen == std::vector<int>{0, 1, 2}));
}
