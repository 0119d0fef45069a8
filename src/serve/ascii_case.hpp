// Names in HTTP that are the same however they are written.
#pragma once

#include <string_view>

#include <boost/beast/core/string.hpp>

namespace llmft {

inline bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return boost::beast::iequals({a.data(), a.size()}, {b.data(), b.size()});
}

}  // namespace llmft
