// Text to class bitmaps, 64 bytes at a time: the first stage of Llama 3's splitter.
#pragma once

#include <string_view>
#include <vector>

#include "llmft/tokenizer/simd.hpp"
#include "llmft/tokenizer/splitter.hpp"

namespace llmft {

// Fills one block per 64 bytes of text, and one empty block after them. Bits past the end of text are zero.
void make_char_masks(std::string_view text, std::vector<BlockMasks>& blocks, SimdTier tier);

}  // namespace llmft
