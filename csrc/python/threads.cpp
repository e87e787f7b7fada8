#include "threads.h"

#include <algorithm>
#include <exception>
#ifdef __linux__
#include <sched.h>
#endif

namespace pe::python {

int available_processors() {
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
    return std::max(1, int(std::thread::hardware_concurrency()));
}

Threads::~Threads() {
    {
        const std::lock_guard lock(mutex_);
        ending_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void Threads::run(void* self, int tasks, Body body, void* argument) {
    Threads& threads = *static_cast<Threads*>(self);
    if (threads.count_ == 1 || tasks <= 1) {
        for (int task = 0; task < tasks; ++task) body(argument, task);
        return;
    }
    threads.start(tasks);
    std::unique_lock lock(threads.mutex_);
    threads.body_ = body;
    threads.argument_ = argument;
    threads.next_ = 0;
    threads.tasks_ = tasks;
    threads.wake_.notify_all();
    threads.run_tasks(lock);
    threads.done_.wait(lock, [&] { return threads.running_ == 0; });
}

void Threads::start(int tasks) {
    const int wanted = std::min(count_, tasks) - 1;
    try {
        while (int(threads_.size()) < wanted) threads_.emplace_back(&Threads::work, this);
    } catch (const std::exception&) {
        // The system has no more threads to give: those that there are run all tasks.
    }
}

void Threads::work() {
    std::unique_lock lock(mutex_);
    while (true) {
        wake_.wait(lock, [&] { return ending_ || next_ < tasks_; });
        if (ending_) return;
        run_tasks(lock);
        if (running_ == 0) done_.notify_one();
    }
}

void Threads::run_tasks(std::unique_lock<std::mutex>& lock) {
    ++running_;
    while (next_ < tasks_) {
        const int task = next_++;
        lock.unlock();
        body_(argument_, task);
        lock.lock();
    }
    --running_;
}

}  // namespace pe::python
