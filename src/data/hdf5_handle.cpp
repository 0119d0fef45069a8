#include "hdf5_handle.hpp"

#include <mutex>

namespace llmft::hdf5 {
namespace {

herr_t collect(unsigned, const H5E_error2_t* error, void* client) {
  auto& text = *static_cast<std::string*>(client);
  std::string description = error->desc == nullptr ? "" : error->desc;
  // The innermost entry comes first; one that quotes the system's message wins over it.
  constexpr const char* kQuote = "error message = '";
  size_t at = description.find(kQuote);
  if (at != std::string::npos) {
    at += std::string(kQuote).size();
    text = description.substr(at, description.find('\'', at) - at);
    return 1;
  }
  if (text.empty()) text = description;
  return 0;
}

}  // namespace

void initialise() {
  static std::once_flag once;
  std::call_once(once, [] {
    H5dont_atexit();
    H5open();
  });
  // The setting is per thread in thread-safe builds.
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

std::string last_error() {
  std::string text;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, collect, &text);
  return text.empty() ? "HDF5 gave no reason" : text;
}

}  // namespace llmft::hdf5
