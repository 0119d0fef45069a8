// Text to class bitmaps, 64 bytes at a time: the first stage of Llama 3's splitter.
#pragma once

#include <string_view>
#include <vector>

#include "llmft/tokenizer/splitter.hpp"

namespace llmft {

// How blocks of ASCII are classed. Same masks from each; `portable` is what machines without SSE2 use.
enum class MaskKernel { portable, sse2 };
MaskKernel best_mask_kernel();

// Fills one block per 64 bytes of text, and one empty block after them. Bits past the end of text are zero.
void make_char_masks(std::string_view text, std::vector<BlockMasks>& blocks,
                     MaskKernel kernel = best_mask_kernel());

}  // namespace llmft
