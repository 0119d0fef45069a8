#include <cstdlib>

#include "llmft/ops/backend.hpp"

namespace llmft {

std::filesystem::path gemm_choices_file() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  if (cache != nullptr) return std::filesystem::path(cache) / "llmft/gemm_choices";
  if (home != nullptr) return std::filesystem::path(home) / ".cache/llmft/gemm_choices";
  return {};
}

}  // namespace llmft
