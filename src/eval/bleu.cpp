// The tokenizer's four regular expressions look at ASCII only and take one or two characters, so they work on
// bytes: no byte of a longer UTF-8 character is a digit, a period, a comma or a dash.
#include "llmft/eval/bleu.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <unordered_map>

#include "llmft/base/text.hpp"

namespace llmft {
namespace {

constexpr size_t kOrders = 4;

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_point(char c) {
  return c == '.' || c == ',';
}
// [\{-\~\[-\` -\&\(-\+\:-\@\/]
bool stands_alone(char c) {
  return (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') ||
         (c >= '(' && c <= '+') || (c >= ':' && c <= '@') || c == '/';
}

std::string_view without_end_blanks(std::string_view text) {
  size_t kept = 0;
  for (size_t at = 0; at < text.size();) {
    size_t blank = leading_blank(text.substr(at));
    at += blank == 0 ? 1 : blank;
    if (blank == 0) kept = at;
  }
  return text.substr(0, kept);
}

std::vector<std::string> split_at_blanks(std::string_view text) {
  std::vector<std::string> words;
  size_t start = 0;
  for (size_t at = 0; at <= text.size();) {
    size_t blank = at < text.size() ? leading_blank(text.substr(at)) : 1;
    if (blank == 0) {
      ++at;
      continue;
    }
    if (at > start) words.emplace_back(text.substr(start, at - start));
    at += blank;
    start = at;
  }
  return words;
}

// A pair of characters that `matches`, replaced by `write`; matches do not overlap, as in Python's re.sub.
template <class Matches, class Write>
std::string replace_pairs(const std::string& text, Matches&& matches, Write&& write) {
  std::string out;
  size_t at = 0;
  while (at < text.size()) {
    if (at + 1 < text.size() && matches(text[at], text[at + 1])) {
      write(out, text[at], text[at + 1]);
      at += 2;
    } else {
      out += text[at++];
    }
  }
  return out;
}

using Grams = std::map<std::vector<int>, int>;

Grams grams_of(const std::vector<int>& words) {
  Grams out;
  for (size_t n = 1; n <= kOrders; ++n)
    for (size_t i = 0; i + n <= words.size(); ++i)
      ++out[{words.begin() + static_cast<std::ptrdiff_t>(i),
             words.begin() + static_cast<std::ptrdiff_t>(i + n)}];
  return out;
}

}  // namespace

std::vector<std::string> tokenize_13a(std::string_view text) {
  std::string line(without_end_blanks(text));
  replace_all(line, "<skipped>", "");
  replace_all(line, "-\n", "");
  replace_all(line, "\n", " ");
  replace_all(line, "&quot;", "\"");
  replace_all(line, "&amp;", "&");
  replace_all(line, "&lt;", "<");
  replace_all(line, "&gt;", ">");
  line = " " + line + " ";
  std::string spaced;
  for (char c : line)
    if (stands_alone(c))
      spaced.append(1, ' ').append(1, c).append(1, ' ');
    else
      spaced += c;
  spaced = replace_pairs(
      spaced, [](char a, char b) { return !is_digit(a) && is_point(b); },
      [](std::string& out, char a, char b) { out.append(1, a).append(1, ' ').append(1, b).append(1, ' '); });
  spaced = replace_pairs(
      spaced, [](char a, char b) { return is_point(a) && !is_digit(b); },
      [](std::string& out, char a, char b) { out.append(1, ' ').append(1, a).append(1, ' ').append(1, b); });
  spaced = replace_pairs(
      spaced, [](char a, char b) { return is_digit(a) && b == '-'; },
      [](std::string& out, char a, char b) { out.append(1, a).append(1, ' ').append(1, b).append(1, ' '); });
  return split_at_blanks(spaced);
}

BleuCounts bleu_counts(std::string_view hypothesis, std::string_view reference) {
  std::unordered_map<std::string, int> numbers;
  auto numbered = [&](std::string_view text) {
    std::vector<int> out;
    for (const std::string& word : tokenize_13a(text))
      out.push_back(numbers.emplace(word, static_cast<int>(numbers.size())).first->second);
    return out;
  };
  std::vector<int> ours = numbered(hypothesis), theirs = numbered(reference);
  Grams reference_grams = grams_of(theirs);
  BleuCounts counts{};
  counts[0] = static_cast<double>(ours.size());
  counts[1] = static_cast<double>(theirs.size());
  for (const auto& [gram, count] : grams_of(ours)) {
    auto found = reference_grams.find(gram);
    if (found != reference_grams.end()) counts[1 + gram.size()] += std::min(count, found->second);
    counts[1 + kOrders + gram.size()] += count;
  }
  return counts;
}

double bleu(std::span<const double> sums) {
  double ours = sums[0], theirs = sums[1];
  std::span<const double> correct = sums.subspan(2, kOrders), total = sums.subspan(2 + kOrders, kOrders);
  double brevity = ours >= theirs ? 1 : ours > 0 ? std::exp(1 - theirs / ours) : 0;
  if (std::all_of(correct.begin(), correct.end(), [](double c) { return c == 0; })) return 0;
  double smooth = 1, log_sum = 0;
  for (size_t n = 0; n < kOrders; ++n) {
    double precision = 0;
    if (total[n] != 0) {
      if (correct[n] == 0) smooth *= 2;
      precision = correct[n] == 0 ? 100 / (smooth * total[n]) : 100 * correct[n] / total[n];
    }
    log_sum += precision == 0 ? -9999999999.0 : std::log(precision);  // sacrebleu's my_log
  }
  return brevity * std::exp(log_sum / kOrders);
}

}  // namespace llmft
