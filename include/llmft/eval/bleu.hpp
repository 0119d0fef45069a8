// Corpus BLEU (Papineni et al. 2002) equal to sacrebleu's with its defaults: one reference, 13a tokens, mixed
// case, exponential smoothing, no effective order.
#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace llmft {

// sacrebleu's name of what is computed.
constexpr const char* kBleuSignature = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp";

// What a segment adds to the corpus: tokens of hypothesis and reference, matches of 1..4-grams, 1..4-grams of
// the hypothesis. Sums over segments give the corpus' counts.
using BleuCounts = std::array<double, 10>;

// mteval-v13a's tokens. Text is valid UTF-8.
std::vector<std::string> tokenize_13a(std::string_view text);
BleuCounts bleu_counts(std::string_view hypothesis, std::string_view reference);
// 0..100.
double bleu(std::span<const double> sums);

}  // namespace llmft
