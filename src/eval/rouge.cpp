#include "llmft/eval/rouge.hpp"

#include <algorithm>
#include <map>
#include <unordered_map>

namespace llmft {
namespace {

Rouge score(double shared, double predicted, double wanted) {
  Rouge r;
  r.precision = shared / std::max(predicted, 1.0);
  r.recall = shared / std::max(wanted, 1.0);
  if (r.precision + r.recall > 0) r.f = 2 * r.precision * r.recall / (r.precision + r.recall);
  return r;
}

Rouge grams(const std::vector<int>& prediction, const std::vector<int>& target, size_t n) {
  std::map<std::vector<int>, int> wanted, got;
  auto count = [n](const std::vector<int>& words, std::map<std::vector<int>, int>& into) {
    double total = 0;
    for (size_t i = 0; i + n <= words.size(); ++i, ++total)
      ++into[{words.begin() + static_cast<std::ptrdiff_t>(i),
              words.begin() + static_cast<std::ptrdiff_t>(i + n)}];
    return total;
  };
  double predicted = count(prediction, got), in_target = count(target, wanted);
  double shared = 0;
  for (const auto& [gram, times] : wanted) {
    auto found = got.find(gram);
    if (found != got.end()) shared += std::min(times, found->second);
  }
  return score(shared, predicted, in_target);
}

// Two rows of the table of longest common subsequences.
Rouge longest_common(const std::vector<int>& prediction, const std::vector<int>& target) {
  std::vector<int> above(prediction.size() + 1), row(prediction.size() + 1);
  for (int word : target) {
    for (size_t j = 0; j < prediction.size(); ++j)
      row[j + 1] = word == prediction[j] ? above[j] + 1 : std::max(above[j + 1], row[j]);
    std::swap(above, row);
  }
  return score(above.back(), static_cast<double>(prediction.size()), static_cast<double>(target.size()));
}

}  // namespace

std::vector<std::string> tokenize_rouge(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  auto end = [&] {
    if (!word.empty()) words.push_back(std::move(word));
    word.clear();
  };
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    std::string_view rest = text.substr(i);
    // the two characters elsewhere in Unicode whose lower case has an ASCII letter
    if (rest.starts_with("\xe2\x84\xaa")) {  // KELVIN SIGN: k
      word += 'k';
      i += 2;
    } else if (rest.starts_with("\xc4\xb0")) {  // I WITH DOT ABOVE: i and a combining dot
      word += 'i';
      end();
      i += 1;
    } else if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
      word += c;
    } else {
      end();
    }
  }
  end();
  return words;
}

RougeScores rouge(std::string_view prediction, std::string_view target) {
  std::unordered_map<std::string, int> numbers;
  auto numbered = [&](std::string_view text) {
    std::vector<int> out;
    for (const std::string& word : tokenize_rouge(text))
      out.push_back(numbers.emplace(word, static_cast<int>(numbers.size())).first->second);
    return out;
  };
  std::vector<int> ours = numbered(prediction), theirs = numbered(target);
  return {grams(ours, theirs, 1), grams(ours, theirs, 2), longest_common(ours, theirs)};
}

}  // namespace llmft
