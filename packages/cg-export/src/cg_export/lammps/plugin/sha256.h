// SHA-256 (FIPS 180-4) of a byte string, in lower-case hexadecimal.

#ifndef CG_SHA256_H
#define CG_SHA256_H

#include <string>

namespace cg {
std::string sha256(const std::string &bytes);
}

#endif
