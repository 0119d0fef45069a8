// A loop whose rounds run on several threads.
#pragma once

#include <cstdint>
#include <functional>

namespace llmft {

// Cores this process may run on (its affinity mask: what srun or mpirun bound it to).
int usable_cores();

// f(0), ..., f(count - 1), each once, in any order, on up to `threads` threads, this one among them. The
// first exception ends it and comes out here.
void parallel_for(int64_t count, int threads, const std::function<void(int64_t)>& f);

}  // namespace llmft
