// Zeroed memory in huge pages where the system has them, for tables that are read at random: with small pages
// most accesses would miss the TLB as well, and some processors drop prefetches that do.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <type_traits>

namespace llmft {

void* allocate_huge(size_t bytes);  // throws std::bad_alloc; std::free() gives it back

struct FreeHuge {
  void operator()(void* memory) const { std::free(memory); }
};

template <class T>
using HugeArray = std::unique_ptr<T[], FreeHuge>;

template <class T>
HugeArray<T> make_huge_array(size_t count) {
  static_assert(std::is_trivially_destructible_v<T>);
  return HugeArray<T>(static_cast<T*>(allocate_huge(count * sizeof(T))));
}

}  // namespace llmft
