// The NumPy module's threads: every task runs once, whatever their numbers, and a run sees what earlier runs
// wrote.
#include <vector>

#include "check.h"
#include "threads.h"

namespace {

struct Counts {
    std::vector<int> of_task;
    std::vector<long> sums;
};

void count_task(void* argument, int task) {
    Counts& counts = *static_cast<Counts*>(argument);
    ++counts.of_task[task];
    // Written by whichever thread had the task in the run before.
    counts.sums[task] += task;
}

}  // namespace

int main() {
    CHECK(pe::python::available_processors() >= 1);
    for (int count : {1, 2, 3, 8}) {
        pe::python::Threads threads(count);
        const pe::Pool pool = threads.pool();
        CHECK(pool.threads == count);
        for (int tasks : {0, 1, 2, 5, 100}) {
            Counts counts{std::vector<int>(tasks), std::vector<long>(tasks)};
            const int runs = 50;
            for (int run = 0; run < runs; ++run) pool.run(pool.context, tasks, count_task, &counts);
            for (int task = 0; task < tasks; ++task) {
                CHECK(counts.of_task[task] == runs);
                CHECK(counts.sums[task] == long{runs} * task);
            }
        }
    }
    // Threads that never ran anything were never started.
    pe::python::Threads idle(1000);
    CHECK(idle.pool().threads == 1000);
}
