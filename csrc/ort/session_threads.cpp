#include "session_threads.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace pe::ort_adapter {
namespace {

using Clock = std::chrono::steady_clock;

// Workers that slept take some 50 us to wake.
constexpr std::chrono::microseconds kPatience{500};

// Whoever is free takes the next: with batches a thread would be given its part beforehand.
constexpr size_t kNoBatches = 0;

// Threads that wait for each other. None leaves before it is over, so that each is counted once.
struct Meeting {
    const int expected;
    std::atomic<int> present{0};
    std::atomic<bool> over{false};

    void attend() {
        if (over) return;
        int last = ++present;
        Clock::time_point since = Clock::now();
        while (!over) {
            const int count = present;
            if (count != last) last = count, since = Clock::now();
            if (count >= expected || Clock::now() - since > kPatience) {
                over = true;
            } else {
                std::this_thread::yield();
            }
        }
    }
};

struct Call {
    void (*const body)(void*, int);
    void* const argument;
    const int tasks;
    std::atomic<int> next{0}, running{0};
    std::atomic<bool> more{false};  // threads than tasks

    void take() {
        const int task = next++;
        if (task < tasks) {
            ++running;
            body(argument, task);
            --running;
        } else if (running == tasks) {
            more = true;
        }
    }
};

template <typename Part, void (Part::*function)()>
void call_part(void* part, size_t) {
    (static_cast<Part*>(part)->*function)();
}

}  // namespace

SessionThreads::SessionThreads(const OrtApi& api)
    : api_(api), most_(std::max(1, int(std::thread::hardware_concurrency()))) {}

int SessionThreads::seen(const OrtKernelContext* context) {
    if (seen_ == 1 && most_ > 1) {
        // Kernels run one task themselves, where no other thread would be met: asked again, ever more rarely.
        const unsigned call = ++calls_;
        if ((call & (call - 1)) != 0) return 1;
        Meeting meeting{most_};
        check_status(api_, api_.KernelContext_ParallelFor(context, &call_part<Meeting, &Meeting::attend>,
                                                          size_t(most_), kNoBatches, &meeting));
        raise(meeting.present);
    }
    return seen_;
}

OrtStatus* SessionThreads::run(const OrtKernelContext* context, int tasks, void (*body)(void*, int),
                               void* argument) {
    Call call{body, argument, tasks};
    // One more than there are tasks finds a thread that seen() did not wait for.
    const int entries = tasks == seen_ && tasks < most_ ? tasks + 1 : tasks;
    OrtStatus* const error = api_.KernelContext_ParallelFor(context, &call_part<Call, &Call::take>,
                                                            size_t(entries), kNoBatches, &call);
    if (call.more) raise(tasks + 1);
    return error;
}

void SessionThreads::raise(int count) {
    int before = seen_;
    while (before < count && !seen_.compare_exchange_weak(before, count)) {
    }
}

}  // namespace pe::ort_adapter
