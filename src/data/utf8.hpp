#pragma once

#include <string_view>

namespace llmft {

// Arrow's check: no overlongs, no surrogates, as valid_utf8_prefix of base, several times as fast on ASCII.
bool valid_utf8(std::string_view text);

}  // namespace llmft
