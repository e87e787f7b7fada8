// Threads of one call: started when the kernel first runs tasks, ended when the call returns.
//
// Threads that outlive calls would be state that a fork does not copy.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "common.h"

namespace pe::python {

// Processors that this process may run on.
int available_processors();

class Threads {
  public:
    explicit Threads(int count) : count_(count) {}
    Threads(const Threads&) = delete;
    Threads& operator=(const Threads&) = delete;
    ~Threads();

    Pool pool() { return {count_, &Threads::run, this}; }

  private:
    using Body = void (*)(void* argument, int task);

    static void run(void* self, int tasks, Body body, void* argument);
    // As many as so many tasks can use.
    void start(int tasks);
    void work();
    // Takes and runs tasks until none is left. Called, and returns, with the lock held.
    void run_tasks(std::unique_lock<std::mutex>& lock);

    const int count_;
    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    Body body_ = nullptr;
    void* argument_ = nullptr;
    int next_ = 0, tasks_ = 0, running_ = 0;
    bool ending_ = false;
};

}  // namespace pe::python
