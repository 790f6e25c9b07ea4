.include "self.s"
